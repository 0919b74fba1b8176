"""What people read: ours beside published, tables, claims, checks and pages. Nothing here imports torch."""
