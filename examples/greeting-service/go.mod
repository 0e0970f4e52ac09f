module example.com/acme/greeting-service

go 1.26
