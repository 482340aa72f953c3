"""Driving a head live: frames of a driver in, frames of a trained person out, in real time."""
