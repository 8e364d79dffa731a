"""Published experiments and claims, run again: each module measures one and keeps its tables in docs/."""
