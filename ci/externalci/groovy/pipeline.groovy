// Prints what a declarative Jenkinsfile does, as JSON: its environment and, in order, each sh and checkout with the credentials and the folder it
// is given. It knows the steps that the examples use and fails for any other, so that none is overlooked.
//
//   java -cp groovy.jar:groovy-json.jar groovy.ui.GroovyMain pipeline.groovy Jenkinsfile
import groovy.json.JsonOutput
import org.codehaus.groovy.ast.ASTNode
import org.codehaus.groovy.ast.builder.AstBuilder
import org.codehaus.groovy.ast.expr.ArgumentListExpression
import org.codehaus.groovy.ast.expr.BinaryExpression
import org.codehaus.groovy.ast.expr.ClosureExpression
import org.codehaus.groovy.ast.expr.ConstantExpression
import org.codehaus.groovy.ast.expr.Expression
import org.codehaus.groovy.ast.expr.ListExpression
import org.codehaus.groovy.ast.expr.MapExpression
import org.codehaus.groovy.ast.expr.MethodCallExpression
import org.codehaus.groovy.ast.expr.TupleExpression
import org.codehaus.groovy.control.CompilePhase

class Reader {
    Map environment = [:]
    List steps = []

    static fail(ASTNode at, String what) { throw new IllegalStateException("line ${at.lineNumber}: ${what}") }

    static text(Expression e) {
        // A text with ${…} that Groovy fills in would put a value, or a secret, into a script.
        if (!(e instanceof ConstantExpression)) fail(e, "not a plain text: ${e.text}")
        e.value as String
    }

    // calls are the method calls of a block: [name, arguments, the closure at their end].
    static List calls(closure) {
        closure.code.statements.collect { s ->
            def call = s.expression
            if (!(call instanceof MethodCallExpression)) fail(s, 'not a step')
            def arguments = (call.arguments as TupleExpression).expressions
            def body = arguments && arguments[-1] instanceof ClosureExpression ? arguments[-1] : null
            [name: call.methodAsString, arguments: body ? arguments[0..<-1] : arguments, body: body, at: call]
        }
    }

    static Map named(Expression e) {
        if (!(e instanceof MapExpression)) fail(e, 'no named arguments')
        e.mapEntryExpressions.collectEntries { [(text(it.keyExpression)): text(it.valueExpression)] }
    }

    // binding is one element of withCredentials.
    static Map binding(MethodCallExpression e) {
        [kind: e.methodAsString] + named((e.arguments as TupleExpression).expressions[0])
    }

    void pipeline(closure) {
        calls(closure).each { c ->
            switch (c.name) {
                case 'agent': case 'options': break
                case 'environment': readEnvironment(c.body); break
                case 'stages':
                    calls(c.body).each { stage ->
                        if (stage.name != 'stage') fail(stage.at, "${stage.name} in stages")
                        calls(stage.body).each { part ->
                            if (part.name != 'steps') fail(part.at, "${part.name} in a stage")
                            run(text(stage.arguments[0]), part.body, '', [])
                        }
                    }
                    break
                default: fail(c.at, "${c.name} in pipeline")
            }
        }
    }

    void readEnvironment(closure) {
        closure.code.statements.each { s ->
            def e = s.expression
            if (!(e instanceof BinaryExpression)) fail(s, 'no assignment')
            environment[e.leftExpression.text] = text(e.rightExpression)
        }
    }

    void run(String stage, closure, String dir, List bindings) {
        calls(closure).each { c ->
            switch (c.name) {
                case 'sh': steps << [stage: stage, kind: 'sh', dir: dir, script: text(c.arguments[0]), bindings: bindings]; break
                case 'checkout': steps << [stage: stage, kind: 'checkout', dir: dir, bindings: bindings]; break
                case 'dir': run(stage, c.body, text(c.arguments[0]), bindings); break
                case 'withCredentials':
                    def list = c.arguments[0]
                    if (!(list instanceof ListExpression)) fail(c.at, 'no list of credentials')
                    run(stage, c.body, dir, bindings + list.expressions.collect { binding(it) })
                    break
                default: fail(c.at, "${c.name} in steps")
            }
        }
    }
}

def nodes = new AstBuilder().buildFromString(CompilePhase.CONVERSION, false, new File(args[0]).getText('UTF-8'))
def call = nodes[0].statements[0].expression
if (nodes[0].statements.size() != 1 || call.methodAsString != 'pipeline') Reader.fail(call, 'not one declarative pipeline')
def reader = new Reader()
reader.pipeline((call.arguments as TupleExpression).expressions[0])
println JsonOutput.toJson([environment: reader.environment, steps: reader.steps])
