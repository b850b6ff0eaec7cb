"""The xmag command."""
