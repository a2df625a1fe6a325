"""A queue of videos behind OpenAI's video endpoints and a page; knows no sampling, and prints nothing."""
