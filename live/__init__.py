"""Live use: a person who follows a camera, a file or an address, in a window, a file, a virtual camera or a page."""
