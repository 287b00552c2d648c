"""The entity store: users and items by id, in LMDB or in Redis."""
