"""Tour: the whole way from data to report, on the demo set."""
