"""Envoy's access log: its entries, joined to requests, become records."""
