"""Every Triton kernel with the function that launches it.

Only what has checked that Triton is here imports from this package. A launch hangs on shapes and dtypes
alone: no look at a value, no choice by one, so that whatever calls these can be captured as a graph.
"""
