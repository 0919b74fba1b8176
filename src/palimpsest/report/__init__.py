"""What people read: our numbers beside the published ones, tables, claims, checks and pages. Nothing here imports
torch.
"""
