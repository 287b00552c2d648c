"""Prepare logs of any size: rows are dealt into shards by user, and each shard is prepared alone.

    parts.deal          input rows -> shards, by a hash of the user
    lists.check         a shard -> its lists, and the ids of those that break a rule
    lists.divide        a shard's lists -> train, valid, test or history, in pieces
    counts.count        a piece -> mergeable aggregates, addressed to partitions of the items
    items.merge         a partition -> its items, and values addressed back to pieces
    output.write        a piece -> a file of the data set
    driver              decides between the stages by what they return

Each stage is a pure function of files (stages.Stages), so an engine may run its tasks anywhere.
"""
