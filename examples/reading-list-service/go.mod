module example.com/acme/reading-list-service

go 1.26
