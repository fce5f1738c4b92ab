-- Workers write the reports log and no other.
GRANT EXECUTE ON FUNCTION casitas_accept, casitas_append TO casitas_worker;
