"""Reads files of questions and of answers in the forms that publishers and other tools use."""
