#!/usr/bin/env python3
"""Makes dynamic_map.safetensors: the maps of 8-bit optimizer states as bitsandbytes 0.50.2 makes them, float32, sorted.

    python make_dynamic_map.py
"""
import os

from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file

here = os.path.dirname(os.path.abspath(__file__))
maps = {"signed": create_dynamic_map(signed=True), "unsigned": create_dynamic_map(signed=False)}
save_file(maps, os.path.join(here, "dynamic_map.safetensors"))
