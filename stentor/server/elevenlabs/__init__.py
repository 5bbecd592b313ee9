"""ElevenLabs' API: text to speech, whole, streamed or over WebSockets, and lists of voices and models."""
