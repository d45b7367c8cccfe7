#!/usr/bin/env python3
"""The double of `build_visual_engine.py` under the name that the program has from 0.19 on."""

from build_visual_engine import main

if __name__ == "__main__":
    main()
