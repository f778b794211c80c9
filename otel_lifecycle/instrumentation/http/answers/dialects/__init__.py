"""One module for each dialect that engines speak; each reads what matters into an `Answer`."""
