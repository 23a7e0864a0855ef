"""Programs that time the package against a named rival, print a table and write JSON."""
