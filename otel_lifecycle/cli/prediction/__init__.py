"""Commands that train a predictor, check it and serve it."""
