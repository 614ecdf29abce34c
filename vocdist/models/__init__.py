"""Networks: a backbone with named feature levels, and the classifier on top of it."""
