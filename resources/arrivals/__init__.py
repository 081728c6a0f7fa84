"""Who tells what came into the lake: nobody here, a queue on AWS and on Azure."""
