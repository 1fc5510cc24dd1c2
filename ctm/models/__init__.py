"""The networks: the class-token transformer with head gates, its pruning, and the segmenter.

Top to bottom, each importing those below it:

* ``class_token_vit``: the classifier, timm's Vision Transformer with other tokens, attentions and head; made of
  ``attention`` (gated heads, and what is recorded of them), ``gates``, ``class_head``, ``patch_head`` and
  ``token_masking``. ``pruning`` removes its closed heads, ``io`` writes and reads it, ``describe`` counts it.
* ``segmenter``: a network of segmentation-models-pytorch by name, or ``vit_segmenter``; ``native_mask`` makes masks of
  its logits, ``onnx_export`` a file that runs without torch.
* ``folder``: a model on disk, whichever it is; ``weights``: pretrained weights of timm; ``config``: the parameters.
"""
