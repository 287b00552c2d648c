"""Join the decisions and the feedback of a journal into a log of impressions."""
