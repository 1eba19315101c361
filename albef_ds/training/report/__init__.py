"""What a run left in its folder, for people: its log as series, its state, a page about it. Trains and evaluates nothing, and
loads no torch."""
