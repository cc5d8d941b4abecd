"""Hand on the student of a finished run: its files with a model card, on the hub, or as GGUF for llama.cpp and Ollama.

Reading order: `finished` (a run's folder and its study), `card`, `weights`, `gguf_file`, `modelfile`, `upload`.
"""
