"""Conditionings, as samplers have them."""


def convert_cond(conditioning):
    return [{**settings, "text": text} for text, settings in conditioning]
