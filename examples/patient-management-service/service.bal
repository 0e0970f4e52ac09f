import ballerina/http;

# Where the service listens.
configurable int port = 9090;

# A patient, known by name.
type Patient record {|
    readonly string name;
    int age;
    string condition;
|};

# What is wrong with a request.
type Fault record {|
    string message;
|};

isolated table<readonly & Patient> key(name) patients = table [];

# What openapi.yaml describes. Patients are in memory only.
service /mediflow on new http:Listener(port) {

    isolated resource function get health() returns map<string> {
        return {status: "ok"};
    }

    isolated resource function get patients() returns Patient[] {
        lock {
            return patients.toArray().clone();
        }
    }

    isolated resource function get patients/[string name]() returns Patient|http:NotFound {
        lock {
            Patient? patient = patients[name];
            if patient is Patient {
                return patient.clone();
            }
        }
        return <http:NotFound>{body: <Fault>{message: "no such patient"}};
    }

    isolated resource function post patients(readonly & Patient patient) returns http:Created|http:Conflict {
        lock {
            if patients.hasKey(patient.name) {
                return <http:Conflict>{body: <Fault>{message: "there is a patient of this name"}};
            }
            patients.add(patient);
        }
        return <http:Created>{body: patient};
    }
}
