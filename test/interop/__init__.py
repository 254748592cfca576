"""Tests against real servers and proxies."""
