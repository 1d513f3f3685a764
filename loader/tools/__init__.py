"""Commands around a loader: simulate a plan, find how documents pack, index a text source."""
