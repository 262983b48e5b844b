"""How a chat is written down, as Jinja for Hugging Face.

    <s><|system|>…<|end|><|user|>…<|end|><|assistant|>…<|end|>

There is no white space between the parts, and that around a message's words is not part of it. A prompt ends with
``<|assistant|>``, and a reply ends with ``<|end|>``.

The words of an assistant and the ``<|end|>`` after them stand between ``{% generation %}`` marks, by which others'
training programs know what to teach (``return_assistant_tokens_mask``, TRL's ``assistant_only_loss``).

The written form is for people and for Hugging Face. In our own code a chat is made of ids (the words encoded, the
special tokens added by id), so a message that spells ``<|end|>`` cannot end its own turn.
"""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('a message has the role ' + message['role'] + '; known are system, user, assistant') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
