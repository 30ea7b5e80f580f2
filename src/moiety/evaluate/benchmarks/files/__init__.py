"""Files of questions and of answers as their publishers and other tools write them."""
