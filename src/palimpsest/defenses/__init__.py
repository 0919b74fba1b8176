"""Defenses: each file is one method that resists an attack."""
