"""One model over several processes: each holds a shard, rank 0 schedules and samples, the others compute."""
