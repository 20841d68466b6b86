// What the chat page knows.
