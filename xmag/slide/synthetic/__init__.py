"""Procedural H&E slides: seeded tissue in micrometres, rendered at any mpp, written as SVS or TIFF."""
