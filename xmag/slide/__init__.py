"""Slides: opening, tissue, grid, tiles. No torch, no database."""
