"""Reports, tables and exports."""
