"""Reading weights from checkpoint files, converting them, and putting them into networks.

Nothing is imported here: lists of published files, and downloads, need no Paddle.
"""
