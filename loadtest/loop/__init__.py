"""The closed loop: simulated users of a real service that learns from what it served."""
