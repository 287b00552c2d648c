"""Retrain a served model on what it served, and publish the candidate that passes the gates."""
