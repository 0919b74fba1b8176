"""What people read: our numbers beside the published ones, tables, claims, checks, pages. Nothing imports torch."""
