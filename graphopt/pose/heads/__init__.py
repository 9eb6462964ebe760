"""How outputs mean people: a file a head, each defining `HEAD` (see `graphopt.pose.head`)."""
