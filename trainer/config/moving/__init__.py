"""Settings of other trainers (sd-scripts, OneTrainer, ai-toolkit) as our configuration."""
