"""Writes the results: the page, its chart, and what other pages say of them."""
