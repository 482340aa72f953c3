"""From a video to conditioning images: detection, landmarks, 3D face fit, NMFC rendering."""
