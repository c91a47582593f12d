"""A run in the browser: the Streamlit app, with the report's own parts."""
