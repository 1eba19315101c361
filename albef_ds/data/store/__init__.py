"""Corpora in object stores and on web servers: retried requests, a cache per node, samples fetched ahead in the known order."""
