"""From trained weights to predictions: lowering, export, exported programs, prediction."""
