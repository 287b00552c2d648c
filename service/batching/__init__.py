"""Queue, batch and run featurised lists within their deadlines."""
