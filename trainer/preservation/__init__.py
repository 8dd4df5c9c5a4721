"""Prior preservation: keeping everything else as it was while something new is learned.

Training on pictures of one subject moves everything that the model draws. On steps that preserve,
other prompts are trained on as well: towards the base model's own predictions (`teacher`; as
DreamBooth, arXiv 2208.12242, section 3.3, with the frozen model as teacher in place of class
pictures, and as learning without forgetting, arXiv 1606.09282), or towards pictures of the class,
as DreamBooth has it (`rows.PicturePreservation`). `prepare` makes either ready before the first
step.
"""
