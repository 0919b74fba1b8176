"""Palimpsest: four papers on attacks against machine unlearning, reproduced side by side."""
