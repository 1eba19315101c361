"""Serves a model and folders of images on this machine: a page and JSON endpoints."""
