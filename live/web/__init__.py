"""The page: a small server and the static page that it shows (`python demo.py --web`)."""
